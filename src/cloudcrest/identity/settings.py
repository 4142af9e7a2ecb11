"""Settings of identity: who may register, how long things last, where mail goes."""

from typing import Annotated, Literal

import msgspec

Registration = Literal["open", "invitation", "closed"]
Count = Annotated[int, msgspec.Meta(ge=1)]


class IdentitySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """`registration`: open: anyone; invitation: who holds an invitation; closed: who holds one made by an operator.

    `public_url` is where people reach this cloud: links in mails begin with it. `secure_cookies`: cookies only travel
    over TLS; set it wherever TLS is on. Without `smtp_host`, mails are written as .eml files into the data folder.
    `require_verified_email`: who has no verified address can sign in, but make no organizations, keys or invitations.
    `oidc_issuer` (its URL, exactly as the provider writes it) and `oidc_client_id` turn on sign-in through an OpenID
    Connect provider; `oidc_name` is what its button says. The provider may be inside this network.
    Lifetimes are in seconds. The `…_max` settings bound what one tenant can make;
    attempts and mailed invitations are per `attempt_window_seconds`. `revoked_key_kept_days`: so long a revoked key is
    still listed.
    """

    registration: Registration = "open"
    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")] = "USD"
    public_url: str = "http://127.0.0.1:8080"
    secure_cookies: bool = False
    session_lifetime_seconds: Count = 7 * 24 * 3600
    invitation_lifetime_seconds: Count = 7 * 24 * 3600
    password_reset_lifetime_seconds: Count = 3600
    email_verification_lifetime_seconds: Count = 24 * 3600
    require_verified_email: bool = False
    attempt_window_seconds: Count = 900
    attempts_per_account: Count = 10
    attempts_per_address: Count = 60
    mailed_invitations_per_organization: Count = 50
    organizations_per_user_max: Count = 5
    projects_per_organization_max: Count = 200
    members_per_organization_max: Count = 2_000
    invitations_per_organization_max: Count = 500
    keys_per_project_max: Count = 1_000
    revoked_key_kept_days: Count = 400
    smtp_host: str | None = None
    smtp_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 587
    smtp_username: str | None = None
    smtp_password: str | None = None
    smtp_starttls: bool = True
    mail_from: str = "Cloudcrest <no-reply@localhost>"
    oidc_issuer: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s?#@]+$", max_length=500)] | None = None
    oidc_client_id: str | None = None
    oidc_client_secret: str | None = None
    oidc_name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] = "Single sign-on"

    def __post_init__(self) -> None:
        if (self.oidc_issuer is None) != (self.oidc_client_id is None):
            raise ValueError("oidc_issuer and oidc_client_id are set together")
