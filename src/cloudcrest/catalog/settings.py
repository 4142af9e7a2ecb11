"""What an operator may set about fetching weights."""

import msgspec

from cloudcrest.kernel.units import GIB, MIB


class CatalogSettings(msgspec.Struct, frozen=True):
    """Read from `CLOUDCREST_CATALOG_…`; what is None comes from the tools' own environment or their public default.

    `hf_endpoint` (else HF_ENDPOINT), `modelscope_endpoint` (else MODELSCOPE_ENDPOINT) and `package_index` (else
    UV_DEFAULT_INDEX, UV_INDEX_URL, PIP_INDEX_URL) are base URLs. `attempts` is how often one download is begun again
    after a break before its source counts as failed. `disk_reserve_bytes` stay free whatever is fetched.
    """

    hf_endpoint: str | None = None
    modelscope_endpoint: str | None = None
    package_index: str | None = None
    connect_timeout_seconds: float = 4.0
    read_timeout_seconds: float = 60.0
    attempts: int = 6
    max_file_bytes: int = 512 * GIB
    max_listing_bytes: int = 64 * MIB
    disk_reserve_bytes: int = 256 * MIB
