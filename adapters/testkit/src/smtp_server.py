"""A mail server for tests: aiosmtpd, which says what it receives, a line of JSON each, and answers as it is told.

Its options are JSON in the first argument. Each line of standard input is JSON with answers: {"rcpt": "550 no"}. An answer is
a reply, "hang" or "close"; null is the usual one. {"login": [user, password]} requires another login. The server ends
when standard input does.
"""

import asyncio
import json
import logging
import os
import ssl
import sys
import warnings

from aiosmtpd.smtp import SMTP, AuthResult

# The server warns of logins in the clear, which tests try too.
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")

options = json.loads(sys.argv[1])
answers = {}


def say(what):
    print(json.dumps(what), flush=True)


async def answered(server, command):
    answer = answers.get(command) or "250 OK"
    if answer == "hang":
        await asyncio.sleep(3600)
    if answer == "close":
        server.transport.abort()
        return "421 closed"
    return answer


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        answer = await answered(server, "rcpt")
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server, session, envelope):
        say({
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "tls": server.transport.get_extra_info("ssl_object") is not None,
            "login": bool(session.authenticated),
            "content": envelope.content.decode("utf-8", "replace"),
        })
        return await answered(server, "data")


def authenticator(server, session, envelope, mechanism, data):
    login = [data.login.decode(), data.password.decode()]
    # Not handled: the server itself answers 235 or 535.
    return AuthResult(success=login == options["login"], handled=False)


async def main():
    loop = asyncio.get_running_loop()
    context = None
    if options["security"] != "plain":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options["certificate"], options["key"])

    def serve():
        starttls = options["security"] == "starttls"
        return SMTP(
            Handler(),
            hostname="mail.test",
            tls_context=context if starttls else None,
            require_starttls=starttls,
            authenticator=authenticator if options["login"] else None,
            auth_required=bool(options["login"]),
            auth_require_tls=starttls,
        )

    wrapped = context if options["security"] == "tls" else None
    server = await loop.create_server(serve, "127.0.0.1", 0, ssl=wrapped)
    say({"port": server.sockets[0].getsockname()[1]})
    while True:
        line = await loop.run_in_executor(None, sys.stdin.readline)
        if not line:
            break
        order = json.loads(line)
        options["login"] = order.pop("login", options["login"])
        answers.update(order)
        say({"set": True})
    # Connections that hang do not delay the end.
    os._exit(0)


asyncio.run(main())
