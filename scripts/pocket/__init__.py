"""What `build_pocket.py` is made of: a tokenizer of whole phrases, the sequences to learn from, and the training."""
