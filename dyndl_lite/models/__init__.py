"""What is a network? Sizes come in, a `Model` goes out: how its weights begin, and what it says."""
