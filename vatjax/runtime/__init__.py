"""The processes of a run: joining a cluster, agreeing between processes, stopping on a signal, losing a peer, progress.

Nothing here knows models, items or values.
"""
