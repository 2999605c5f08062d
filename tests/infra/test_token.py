"""The token with which the functions authenticate to a cluster is the one that the AWS CLI makes.

The Rust tests compare their token with functions/aws/fixtures/eks-token.json. This test makes the tokens of that file with
the library of the command `aws eks get-token`, in the same way as the command.
"""

import datetime
import json
from urllib.parse import parse_qs, urlsplit

import botocore.auth
import botocore.session
import pytest

from botocore.compat import HAS_CRT

from template import ROOT

KNOWN = ROOT / "functions" / "aws" / "fixtures" / "eks-token.json"
HEADER = "x-k8s-aws-id"


def presigned(known: dict, monkeypatch) -> str:
    at = datetime.datetime.fromisoformat(known["at"])
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: at.replace(tzinfo=None))
    if HAS_CRT:
        # If it is installed, this library signs.
        monkeypatch.setattr("botocore.crt.auth.get_current_datetime", lambda **_: at)
    session = botocore.session.get_session()
    session.set_credentials(known["accessKeyId"], known["secretAccessKey"], known["sessionToken"])
    client = session.create_client("sts", region_name=known["region"])
    names = {}
    client.meta.events.register(
        "provide-client-params.sts.GetCallerIdentity", lambda params, **_: names.update(id=params.pop(HEADER))
    )
    client.meta.events.register(
        "before-sign.sts.GetCallerIdentity", lambda request, **_: request.headers.add_header(HEADER, names["id"])
    )
    return client.generate_presigned_url("get_caller_identity", Params={HEADER: known["cluster"]}, ExpiresIn=60, HttpMethod="GET")


@pytest.mark.parametrize("known", json.loads(KNOWN.read_text()), ids=lambda known: known["region"])
def test_the_known_urls_are_what_the_command_signs(known, monkeypatch):
    made, kept = urlsplit(presigned(known, monkeypatch)), urlsplit(known["url"])
    assert made[:3] == kept[:3]
    assert parse_qs(made.query) == parse_qs(kept.query)
    assert parse_qs(made.query)["X-Amz-SignedHeaders"] == [f"host;{HEADER}"]
