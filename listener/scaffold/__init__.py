"""`pgherald init`: read an unknown database's catalog, infer a rule, and write it as TOML.

- `catalog` reads tables, columns and foreign keys. It reads no row and changes nothing.
- `watched` reads the rules that the database has already.
- `infer` and `consent` decide each setting of the rule, or say between which candidates they could not.
- `toml` writes the configuration. Settings that could not be inferred are marked CHANGE_ME, which
  `install` or `run` refuses.
- `starter` has the first templates of a rule.

Consent is never guessed: one column must be named unmistakably. The folder may import `db`, `config` and the ground.
"""
