"""supernet + budget -> search/NAME/"""
