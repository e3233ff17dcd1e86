"""architecture + supernet + masks -> segment/NAME/"""
