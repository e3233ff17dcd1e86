"""settings -> hours and memory of every stage"""
