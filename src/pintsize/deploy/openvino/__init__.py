"""OpenVINO's `.xml` and `.bin`."""
