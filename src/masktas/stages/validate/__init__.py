"""supernet + labels -> validate/NAME/"""
