"""Signatures of executor files, by The Update Framework (python-tuf): keys, proofs, trust."""
