"""Ray on loopback addresses."""


def keep_loopback() -> None:
    """Has Ray take 127.0.0.1 at its word in this process.

    It replaces it by the machine's own address, and then listens on every network; with a loopback address its servers
    listen there alone. So a cloud of one machine, and the tests, open nothing to others. Ray has no setting for it.
    """
    from ray._private import services

    services.resolve_ip_for_localhost = lambda host: host
