"""teacher + supernet -> distill/NAME/"""
