"""Build the files of a release into dist/ and check them: ``make release``.

`source` refuses a checkout that no release can be made of. `packages` builds the wheel and the sdist and installs the
wheel. `image` saves the container image. `sbom` lists the packages of both in CycloneDX. `sums` writes SHA256SUMS. Each
module also checks the files that it makes.
"""
