"""What OpenAPI cannot say about valid requests, for scripts/schemathesis.

Only requests that are meant to be valid are touched; those with a planted fault are sent as they were made.
"""

import itertools
import os
import re

import schemathesis

_numbers = itertools.count(1)
_roles = os.environ.get("SCHEMATHESIS_ROLES", "").split()
_tags = re.compile(r'^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$')


@schemathesis.hook
def before_call(context, case, kwargs):
    meta = case.meta
    # Schemathesis 4.32 draws `0` for this pattern and takes it for valid, also where the planted fault is the method.
    fault = getattr(getattr(getattr(meta, "phase", None), "data", None), "description", None) or ""
    if fault.startswith("Unspecified HTTP method") and not _tags.match((case.headers or {}).get("If-Match", "*")):
        case.headers["If-Match"] = "*"
    if meta is None or not meta.generation.mode.is_positive:
        return
    query = case.query or {}
    # A cursor is sealed: only the api makes one. Pages are walked by api/tests/processes/listing.rs.
    query.pop("cursor", None)
    if case.operation.label == "GET /api/orders/{id}":
        # Both or none of them.
        if ("wait" in query) != ("status" in query):
            query.pop("wait", None)
            query.pop("status", None)
        # None of thousands of requests waits for half a minute.
        if "wait" in query:
            query["wait"] = "1s"
    headers, body = case.headers or {}, case.body
    # Which hosts are valid, and which types of events there are, no pattern says. Nothing is sent to this host.
    if case.operation.label in ("POST /api/webhooks", "PATCH /api/webhooks/{id}") and isinstance(body, dict):
        if body.get("url") is not None:
            body["url"] = f"https://hooks.shop.invalid/{next(_numbers)}"
        if body.get("types") is not None:
            body["types"] = ["order.*", "refund.requested"][: len(body["types"])]
    # An adjustment needs a key, so that it is made once.
    if case.operation.label == "PUT /api/inventory/{productId}/stock" and isinstance(body, dict) and "adjust" in body:
        headers.setdefault("Idempotency-Key", "adjust")
    # A key identifies one request. Made at random, most keys would be alike, and most requests refused.
    if "Idempotency-Key" in headers:
        headers["Idempotency-Key"] = f"{headers['Idempotency-Key'][:200]}/{next(_numbers)}"
    # Schemathesis 4.32 draws `0` for this pattern and takes it for valid.
    if not _tags.match(headers.get("If-Match", "*")):
        headers["If-Match"] = "*"
    # Who may place orders for every customer must say for which; a customer may leave that out.
    if case.operation.label == "POST /api/orders" and isinstance(body, dict) and _roles != ["customer"]:
        if body.get("customerId") is None:
            body["customerId"] = "c-1001"
