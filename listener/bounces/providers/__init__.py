"""The webhooks of mail providers: each module turns one provider's request into reports.

A module has a function `read(webhook, setting)`, and `table` lists them. `read` first checks where the request comes from.
It returns one `Report` for each bounce and complaint, and none for other events. It changes nothing and may run in any
thread. It raises `Forged` if the check fails, `BadReport` if it cannot read the request, and `Unavailable` if it cannot
check the request now.

Errors contain nothing of the request. It imports `report` and the standard library, and cryptography where a signature is
checked.
"""
