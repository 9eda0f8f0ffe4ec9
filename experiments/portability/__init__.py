"""Does every machine decode the same symbols?"""
