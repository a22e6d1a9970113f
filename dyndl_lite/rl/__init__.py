"""Reinforcement learning: worlds, agents that store nothing, agents that store a batch."""
