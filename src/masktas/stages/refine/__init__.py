"""search + supernet -> refine/NAME/"""
