"""The Ray fabric: the nodes of a Ray cluster, each with its own agent.

    region service ── node.sock ── fabric process (`fabric.py`) ─┬─ Ray ─ actor ── agent's socket ── processes
                                                                 └─ Ray ─ actor ── agent's socket ── processes

Ray says which nodes there are and carries calls to them, with its token. The agents are those of the local fabric and
no children of Ray's: what runs goes on when Ray ends, and is found again. Nothing here but `cluster.py` and `start.py`
loads Ray.
"""
