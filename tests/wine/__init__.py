"""BITS as Wine has it: a Windows program that downloads from us, where Wine is installed."""
