"""images + teacher -> supernet/"""
