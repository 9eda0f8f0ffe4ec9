"""How far is a set of decoded images from its originals, in the features of a network?"""
