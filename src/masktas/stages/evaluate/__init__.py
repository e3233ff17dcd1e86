"""network + labelled images -> evaluate/NAME/"""
