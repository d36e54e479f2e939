"""Tokens of an issuer: a real, tiny one, which speaks https with a certificate of its own."""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from omnialign.errors import Unauthenticated, Unavailable
from omnialign.v1 import data_service_pb2
from services.runtime.auth import oidc
from services.runtime.auth.oidc import OidcVerifier, roles_of
from services.runtime.context import Role
from tests.certificates import Authority
from tests.services.runtime.auth.conftest import Guarded

AUDIENCE = "omnialign"
GET = "/omnialign.v1.DataService/GetDataset"


class Issuer:
    """Publishes keys over https and signs tokens with them."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.keys: dict[str, Any] = {"first": ec.generate_private_key(ec.SECP256R1())}
        self.asked: list[str] = []
        self.about: dict[str, Any] = {}
        self.extra_keys: list[dict[str, Any]] = []
        pair = self.authority.issue("issuer")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def sign(self, key_id: str = "first", *, key: Any = None, algorithm: str = "", **claims: Any) -> str:
        key = self.keys[key_id] if key is None else key
        algorithm = algorithm or ("ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256")
        base = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ann",
            "exp": time.time() + 60,
            "omnialign_roles": {"demo": "reader"},
        }
        found = {name: value for name, value in (base | claims).items() if value is not None}
        return jwt.encode(found, key, algorithm=algorithm, headers={"kid": key_id})

    def _answers(self) -> dict[str, Any]:
        about = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"} | self.about
        return {oidc.DISCOVERY: about, "/keys": {"keys": [*map(_published, self.keys.items()), *self.extra_keys]}}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                body = json.dumps(issuer._answers().get(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def _published(item: tuple[str, Any]) -> dict[str, Any]:
    key_id, key = item
    made = jwt.algorithms.ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else jwt.algorithms.RSAAlgorithm
    return made.to_jwk(key.public_key(), as_dict=True) | {"kid": key_id, "use": "sig"}


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    found = Issuer(tmp_path / "issuer")
    yield found
    found.close()


def verifier(issuer: Issuer, **more: Any) -> OidcVerifier:
    settings = {"issuer": issuer.url, "audience": AUDIENCE, "roles_claim": "omnialign_roles"}
    return OidcVerifier(**{**settings, "ca_file": issuer.authority.file, **more})


async def reason(checker: OidcVerifier, token: str, key_id: str = "first") -> str:
    try:
        await checker.check(token, key_id=key_id)
    except (Unauthenticated, Unavailable) as error:
        return error.reason
    return ""


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())])
async def test_a_good_token_gives_the_roles_in_its_claim(issuer, key):
    issuer.keys = {"k": key}
    caller = await verifier(issuer).check(issuer.sign("k"), key_id="k")
    assert (caller.name, caller.roles) == ("ann", {"demo": Role.READER})


async def test_what_is_wrong_with_a_token_is_found(issuer):
    checker, now = verifier(issuer), time.time()
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert await reason(checker, issuer.sign()) == ""
    assert await reason(checker, issuer.sign(exp=now - 10)) == ""  # clocks differ a little
    assert await reason(checker, issuer.sign(exp=now - 40)) == "TOKEN_EXPIRED"
    for wrong in (
        issuer.sign(nbf=now + 60),
        issuer.sign(aud="another"),
        issuer.sign(iss="https://another"),
        issuer.sign(exp=None),
        issuer.sign(sub=None),
        issuer.sign(aud=None),
        issuer.sign(key=stranger),
        issuer.sign() + "x",
    ):
        assert await reason(checker, wrong) == "TOKEN_UNKNOWN"


async def test_the_token_does_not_choose_the_algorithm(issuer):
    issuer.keys = {"first": rsa.generate_private_key(65537, 2048)}
    checker = verifier(issuer)
    assert await reason(checker, issuer.sign(algorithm="RS512")) == "TOKEN_UNKNOWN"
    assert await reason(checker, issuer.sign(algorithm="PS256")) == "TOKEN_UNKNOWN"
    public = _published(("first", issuer.keys["first"]))["n"]  # known to all: must be no secret to sign with
    assert await reason(checker, issuer.sign(key=public, algorithm="HS256")) == "TOKEN_UNKNOWN"
    assert await reason(checker, issuer.sign(key="", algorithm="none")) == "TOKEN_UNKNOWN"


async def test_keys_of_other_kinds_and_broken_ones_are_left_out(issuer):
    issuer.extra_keys = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"},
        {"kty": "EC", "crv": "P-384", "kid": "p384"},
        {"kty": "RSA", "n": "!!", "e": "AQAB", "kid": "broken"},
        {"kty": "RSA", "kid": "enc", "use": "enc"},
        7,
    ]
    checker = verifier(issuer)
    assert await reason(checker, issuer.sign()) == ""
    for key_id in ("oct", "p384", "broken", "enc"):
        assert await reason(checker, issuer.sign(), key_id=key_id) == "TOKEN_UNKNOWN"


async def test_a_new_key_is_fetched_once_it_is_named_and_made_up_ids_are_not_load(issuer, monkeypatch):
    monkeypatch.setattr(oidc, "MIN_PAUSE_SECONDS", 0.0)
    checker = verifier(issuer)
    assert await reason(checker, issuer.sign()) == ""
    issuer.keys["second"] = ec.generate_private_key(ec.SECP256R1())
    assert await reason(checker, issuer.sign("second"), "second") == ""
    asked = len(issuer.asked)
    assert await reason(checker, issuer.sign("second"), "second") == ""
    assert len(issuer.asked) == asked == 4
    monkeypatch.setattr(oidc, "MIN_PAUSE_SECONDS", 60.0)
    for number in range(5):
        assert await reason(checker, issuer.sign(), f"made-up-{number}") == "TOKEN_UNKNOWN"
    assert len(issuer.asked) == asked


async def test_while_the_issuer_is_away_known_keys_stay_in_use_and_unknown_ones_are_unavailable(issuer, monkeypatch):
    monkeypatch.setattr(oidc, "MIN_PAUSE_SECONDS", 0.0)
    checker, fresh = verifier(issuer), verifier(issuer)
    token = issuer.sign()
    assert await reason(checker, token) == ""
    issuer.about = {"jwks_uri": "https://127.0.0.1:1/keys"}
    monkeypatch.setattr(oidc, "REFRESH_SECONDS", 0.0)
    assert await reason(checker, token) == ""
    assert await reason(checker, token, "another") == "TOKEN_UNKNOWN"
    assert await reason(fresh, token) == "OIDC_UNAVAILABLE"
    issuer.about = {}
    assert await reason(fresh, token) == ""
    await checker.close()


@pytest.mark.parametrize(
    "about", [{"issuer": "https://another"}, {"jwks_uri": "http://127.0.0.1/keys"}, {"jwks_uri": 7}]
)
async def test_an_issuer_that_says_something_odd_is_not_believed(issuer, about, caplog):
    issuer.about = about
    assert await reason(verifier(issuer), issuer.sign()) == "OIDC_UNAVAILABLE"
    assert "cannot be fetched" in caplog.text


async def test_an_issuer_whose_certificate_is_not_trusted_is_not_believed(issuer, tmp_path):
    other = Authority(tmp_path / "other")
    assert await reason(verifier(issuer, ca_file=other.file), issuer.sign()) == "OIDC_UNAVAILABLE"


async def test_a_server_lets_the_bearer_of_an_issuers_token_in_and_counts_the_others(issuer, guarded: Guarded):
    guarded.grant("reader", roles={"demo": "reader"})
    await guarded.start(oidc_issuer=issuer.url, oidc_audience=AUDIENCE, oidc_ca_file=issuer.authority.file)
    request = data_service_pb2.GetDatasetRequest(name="projects/demo/datasets/d")
    for token in (issuer.sign(), "reader"):
        assert (await guarded.call(GET, request, token=token)).passed
    late = await guarded.call(GET, request, token=issuer.sign(exp=time.time() - 90))
    assert (late.code, late.reason) == ("UNAUTHENTICATED", "TOKEN_EXPIRED")
    assert (await guarded.call(GET, request, token=issuer.sign(omnialign_roles={}))).reason == "NOT_FOUND"
    assert guarded.failures("TOKEN_EXPIRED") == 1.0


@pytest.mark.parametrize(
    ("claim", "roles"),
    [
        ({"a": "reader", "*": "submitter"}, {"a": Role.READER, "*": Role.SUBMITTER}),
        (["a:reader", "a:admin", "a:submitter", "*:reader"], {"a": Role.ADMIN, "*": Role.READER}),
        ({"a": "service", "*": "service", "B": "reader", "c": ["reader"], "d": "owner"}, {}),
        (["a", "reader", ":reader", 7, "a:b:reader"], {}),
        (None, {}),
        ("a:reader", {}),
    ],
)
def test_only_what_is_understood_in_the_claim_gives_a_role(claim, roles):
    assert dict(roles_of(claim)) == roles


claims = st.recursive(
    st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=8
)


@given(claims)
def test_no_claim_makes_anybody_a_service(claim):
    assert all(role < Role.SERVICE for _, role in roles_of(claim))
