"""How does an agent act and learn? Environments and agents come in, a tidy table of returns goes out.

Agents that learn from each transition once (`streaming`), that store a batch (`ppo`) or a buffer (`dqn`);
environments in torch (`environments`, `navigation`) and gymnasium's (`gymnasium_adapters`).
"""
