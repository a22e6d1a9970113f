"""Loss of plasticity, continual backprop and dynamic deep learning, runnable."""
