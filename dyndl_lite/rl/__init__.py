"""How does an agent act and learn? Environments and agents come in, a table of returns goes out.

Agents learn from each transition once (`streaming`), store a batch (`ppo`) or a buffer (`dqn`);
environments are in torch (`environments`, `navigation`) or gymnasium's (`gymnasium_adapters`).
"""
