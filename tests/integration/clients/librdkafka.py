"""What librdkafka calls the arguments of the command `secure` (driver.py)."""


def settings(protocol, ca, certificate=None, key=None, mechanism=None, user=None, password=None,
             principal=None, keytab=None, service=None, **_):
    wanted = {"security.protocol": protocol, "ssl.ca.location": ca,
              "ssl.certificate.location": certificate, "ssl.key.location": key,
              "sasl.mechanism": mechanism, "sasl.username": user, "sasl.password": password,
              "sasl.kerberos.principal": principal, "sasl.kerberos.keytab": keytab,
              "sasl.kerberos.service.name": service}
    return {name: value for name, value in wanted.items() if value is not None}
