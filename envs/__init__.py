"""Gymnasium environments, written against agentkd's public API as a user's would be."""
