"""What people would pick instead of expkit, each with the leanest settings that its own documentation has.

Each module has `fit(model, optimizer, batches)`, which trains a network that is there already on batches that are, too.
"""
