"""SimulatePrincipalPolicy, which moto lacks: what the stand-in account's user may do. Reads the account's switches only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from cloudtune.standins.aws.answers import REQUEST_ID, Answer

if TYPE_CHECKING:
    from cloudtune.standins.aws.account import Account

OPERATION: Final = "SimulatePrincipalPolicy"


def simulate(form: Mapping[str, Sequence[str]], account: Account) -> Answer:
    """The decision on each action that the form names, for each of its resources."""
    actions = _members(form, "ActionNames")
    resources = _members(form, "ResourceArns") or ["*"]
    results = "".join(_result(action, resource, account) for action in actions for resource in resources)
    inner = f"<IsTruncated>false</IsTruncated><EvaluationResults>{results}</EvaluationResults>"
    text = f"<{OPERATION}Response><{OPERATION}Result>{inner}</{OPERATION}Result>{_METADATA}</{OPERATION}Response>"
    return Answer(200, text.encode(), {"Content-Type": "text/xml"})


_METADATA: Final = f"<ResponseMetadata><RequestId>{REQUEST_ID}</RequestId></ResponseMetadata>"


def _members(form: Mapping[str, Sequence[str]], name: str) -> list[str]:
    found = {key: values[0] for key, values in form.items() if key.startswith(f"{name}.member.")}
    return [found[key] for key in sorted(found, key=lambda key: int(key.rpartition(".")[2]))]


def _result(action: str, resource: str, account: Account) -> str:
    parts = {"EvalActionName": action, "EvalResourceName": resource, "EvalDecision": _decision(action, account)}
    return f"<member>{''.join(f'<{name}>{escape(value)}</{name}>' for name, value in parts.items())}</member>"


def _decision(action: str, account: Account) -> str:
    if action in account.forbidden:
        return "explicitDeny"
    denied = action in account.denied or (action == "iam:PassRole" and not account.may_pass_role)
    return "implicitDeny" if denied else "allowed"
