# Makes ocps@.service, one OCPS of several on a machine, of ocps.service: `systemctl start ocps@2` is index 2, with
# /run/ocps-2, /var/lib/ocps-2, /var/log/ocps-2 and /etc/ocps-2; what is not in that is taken from /etc/ocps.
1c\
# Made of ocps.service with etc/instance.sed.
/^Description=/s/$/ (index %i)/
/^# The index is in ocps.toml; /s/.*/# The LSST_* variables may be set in ocps.env, the file of the instance coming last./
/^ExecStart=/s/$/ %i/
/Directory=ocps$/s/$/-%i/
/^EnvironmentFile=/a\
EnvironmentFile=-/etc/ocps-%i/ocps.env
