"""Which organization or project is meant: by id or name, or the only one there is."""

from cloudcrest.cli.client import Client, Json, at
from cloudcrest.cli.errors import Refused, WrongUsage
from cloudcrest.kernel.errors import NotFound
from cloudcrest.kernel.registry import close_matches

MAX_LOOKED_AT = 1000


def organization_id(cloud: Client, asked: str | None) -> str:
    """The id of the organization that `asked` names, or of the only one that this caller sees.

    An operator sees the cloud's own too. Nobody works in that one, so it is meant only where it is named.
    """
    if asked is not None and asked.startswith("org_"):
        return asked
    found = list(cloud.items(at("organizations"), limit=MAX_LOOKED_AT))
    return _one("organization", "--org", [each for each in found if asked or not each.get("is_system")], asked)


def project_id(cloud: Client, asked: str | None, organization: str | None = None) -> str:
    """The id of the project that `asked` names, or of the only one that this caller sees."""
    if asked is not None and asked.startswith("proj_"):
        return asked
    place = None if organization is None else organization_id(cloud, organization)
    found = list(cloud.items(at("projects"), limit=MAX_LOOKED_AT, organization_id=place))
    found = [item for item in found if not item.get("archived_at")]
    if place is None and len(found) > 1:
        organizations = cloud.items(at("organizations"), limit=MAX_LOOKED_AT)
        systems = {each["id"] for each in organizations if each.get("is_system")}
        found = [item for item in found if item.get("organization_id") not in systems]
    return _one("project", "--project", found, asked)


def unserved(cloud: Client, models: list[str]) -> list[str]:
    """What is to be said of those `models` that this caller is served by no deployment, one sentence for each."""
    try:
        served = sorted({str(item["name"]) for item in cloud.items(at("deployments"), limit=MAX_LOOKED_AT)})
    except Refused:  # this key may not look
        return []
    said = []
    for model in models:
        if model not in served:
            like = close_matches(model, served) or served[:10]
            there_is = f"there is: {', '.join(like)}" if like else "none is"
            said.append(f"'{model}' is not served now; {there_is}")
    return said


def _one(kind: str, flag: str, found: list[Json], asked: str | None) -> str:
    named = [item for item in found if asked in (None, item["name"])]
    if len(named) == 1:
        return str(named[0]["id"])
    if not found:
        raise NotFound(f"you are in no {kind} yet", hint=f"make one with `cloudcrest {kind}s create NAME`")
    names = [str(item["name"]) for item in found]
    if not named:
        like = close_matches(asked or "", names) or names[:10]
        raise NotFound(f"there is no {kind} '{asked}'", hint=f"perhaps: {', '.join(like)}")
    choices = ", ".join(f"{item['id']} ({item['name']})" for item in named[:10])
    raise WrongUsage(f"there is more than one {kind}", hint=f"say which with {flag}: {choices}")


def first_model(cloud: Client, task: str) -> str:
    """The first deployed model for a task. Raises `NotFound` where there is none."""
    for model in cloud.get("/v1/models").get("data", []):
        if model.get("task", "chat") == task:
            return str(model["id"])
    raise NotFound(
        f"no model for {task} is deployed", hint="see `cloudcrest deployments list`, or name one with --model"
    )
