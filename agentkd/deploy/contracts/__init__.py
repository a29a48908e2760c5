"""Contracts of other tools: files that tell what goes into a policy and comes out of it.

Each tool has a module that reads its file into the executor's contract and writes one from it:
`isaaclab`, `mjlab`, `microduck`, `rl_sar`, `unitree`. `files` tells their files apart, `compare`
names what differs between two contracts.
"""
