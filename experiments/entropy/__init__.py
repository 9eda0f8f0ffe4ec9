"""What does each part of the entropy model contribute?"""
