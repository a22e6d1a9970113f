"""How does a network learn, and what keeps it able to? Models and losses come in, learners go out.

Optimisers, interventions that act after each step, other layers, and the recipes made of them.
"""
