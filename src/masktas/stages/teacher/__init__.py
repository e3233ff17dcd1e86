"""images -> teacher/"""
