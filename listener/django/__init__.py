"""pgherald in a Django project: the app `listener.django`, for INSTALLED_APPS.

- `operations` has the migration operations `Watch`, `Unwatch` and `Rewatch`.
- `checks` has the system check of the rules that migrations watch.
- `models` and `admin` show events in Django's admin. Nobody can change them there.
- `catalog` asks the database what is installed, and what its role may do.

An application imports this folder, and its role usually has no privilege on the schema `pgherald`. So the folder reads the
server's catalogs first. Of pgherald it imports `resources` and `printable` only. An application then starts as fast as
before, and its process keeps its settings. No other folder may import this one.
"""
