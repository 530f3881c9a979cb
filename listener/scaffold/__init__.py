"""`pgherald init`: read an unknown database's catalog, infer a rule, and write it as TOML.

- `catalog` reads tables, columns, keys and foreign keys.
- `seen` reads the values of one column, for the operator to choose from. No other row is read, and nothing is changed.
- `watched` reads the rules that the database has already.
- `infer` decides each setting of the rule, or says between which candidates it could not. `state`, `owner` and `consent`
  do their part of it.
- `sql_text` writes the queries and `toml` the configuration. Settings that could not be inferred are marked CHANGE_ME,
  which `config.placeholder` refuses.
- `starter` has the first templates of a rule.

Neither a consent nor a value is guessed. The folder may import `db`, `config` and the ground.
"""
