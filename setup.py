from setuptools import find_packages, setup

setup(name="effjax", version="0.1.0", packages=find_packages(include=["effjax", "effjax.*"]), python_requires=">=3.11")
