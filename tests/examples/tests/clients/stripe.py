"""Charges by stripe-python: a line of JSON on standard input is a charge to make, a line on standard output what came of it."""
import json
import sys

import stripe

stripe.enable_telemetry = False


def charge(port, secret, key, amount, source):
    # A client of its own repeats nothing unless told to, other than the module's functions: two retries, as those have.
    client = stripe.StripeClient(
        secret,
        base_addresses={"api": f"http://127.0.0.1:{port}"},
        max_network_retries=stripe.max_network_retries,
    )
    try:
        options = {"idempotency_key": key} if key else {}
        made = client.v1.charges.create({"amount": amount, "currency": "eur", "source": source}, options)
        return {"id": made.id, "replayed": made.last_response.headers.get("idempotent-replayed")}
    except stripe.StripeError as error:
        return {"error": type(error).__name__, "status": error.http_status, "message": error.user_message}


for line in sys.stdin:
    print(json.dumps(charge(**json.loads(line))), flush=True)
