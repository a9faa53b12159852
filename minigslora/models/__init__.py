"""Models: the Face Transformer and its heads, timm's classifiers, and their files."""
