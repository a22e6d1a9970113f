"""How fast is it, beside the loops that people write? Learners come in, rates go out."""
