"""A Django project of another shape than the example's: no admin, a user with a UUID, tables in schemas of their own."""

import os

from psycopg.conninfo import conninfo_to_dict

SECRET_KEY = "of a test"
INSTALLED_APPS = ["django.contrib.contenttypes", "listener.django", "people", "sales"]
AUTH_USER_MODEL = "people.Person"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

_parts = conninfo_to_dict(os.environ["DATABASE_URL"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _parts.pop("dbname"),
        "USER": _parts.pop("user", ""),
        "PASSWORD": _parts.pop("password", ""),
        "HOST": _parts.pop("host", ""),
        "PORT": _parts.pop("port", ""),
        "OPTIONS": _parts,
    }
}
