"""What Ray has no setting for."""


def keep_loopback() -> None:
    """Has Ray take 127.0.0.1 at its word in this process.

    It replaces it by the machine's own address, and then listens on every network; with a loopback address its servers
    listen there alone. So a cloud of one machine, and the tests, open nothing to others.
    """
    from ray._private import services

    services.resolve_ip_for_localhost = lambda host: host


def ignore_other_nodes() -> None:
    """Has a head start although nodes of its address run here: those of its life before, which are about to end.

    Ray would take them for another head. Where there really is one, the port is taken, and says so.
    """
    from ray._private import services

    services.find_bootstrap_address = lambda _: None
