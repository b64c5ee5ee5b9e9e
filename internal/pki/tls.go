package pki

import (
	"crypto/tls"
)

// ServerTLS is the side of a target. Clients have to show a certificate of the
// authority with the role of a controller or a node. The files are looked at
// with every handshake, and read again when they have changed.
func ServerTLS(caFile, certFile, keyFile string) (*tls.Config, error) {
	r, err := newReloader(files{caFile, certFile, keyFile}, RoleTarget)
	if err != nil {
		return nil, err
	}
	current := func(*tls.ClientHelloInfo) (*tls.Config, error) {
		id, err := r.get()
		if err != nil {
			return nil, err
		}
		return serverConfig(id), nil
	}
	cfg, err := current(nil)
	if err != nil {
		return nil, err
	}
	cfg.GetConfigForClient = current
	return cfg, nil
}

func serverConfig(id *identity) *tls.Config {
	return &tls.Config{
		MinVersion:       tls.VersionTLS13,
		Certificates:     []tls.Certificate{id.pair},
		ClientCAs:        id.roots,
		ClientAuth:       tls.RequireAndVerifyClientCert,
		VerifyConnection: requireRole(RoleController, RoleNode),
		NextProtos:       []string{"h2"}, // gRPC insists on it
		// A resumed session would go by the authority of its first handshake.
		SessionTicketsDisabled: true,
	}
}

// ClientTLS is the side of a controller or a node. The server has to show a
// certificate of the authority for ServerName with the role of a target; its
// address does not matter. The client's own certificate is read again when it
// has changed; the authority is read once.
func ClientTLS(caFile, certFile, keyFile string) (*tls.Config, error) {
	r, err := newReloader(files{caFile, certFile, keyFile}, RoleController, RoleNode)
	if err != nil {
		return nil, err
	}
	id, err := r.get()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    id.roots,
		ServerName: ServerName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			id, err := r.get()
			if err != nil {
				return nil, err
			}
			return &id.pair, nil
		},
		VerifyConnection: requireRole(RoleTarget),
		NextProtos:       []string{"h2"},
	}, nil
}
