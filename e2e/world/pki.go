package world

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// pki is the folder with the world's certificates, keys and tokens: one
// authority, a serving certificate for the API server, a client certificate
// for its calls to kubelets, a key for ServiceAccount tokens, and one static
// token for each component.
type pki struct {
	dir    string
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	tokens map[string]string // user → token
}

const (
	userAdmin             = "e2e-admin"
	userControllerManager = "system:kube-controller-manager"
	userScheduler         = "system:kube-scheduler"
)

func userNode(node string) string { return "system:node:" + node }

// writePKI makes everything new; nothing is worth keeping from one world to
// the next.
func writePKI(dir string, nodes int) (*pki, error) {
	p := &pki{dir: dir, tokens: map[string]string{}}
	if err := p.makeAuthority(); err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	server := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		DNSNames:    []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"},
		IPAddresses: []net.IP{net.ParseIP(controlAddr), net.ParseIP(PodAPIAddr), net.ParseIP("127.0.0.1"), net.ParseIP(serviceAPIAddr)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	kubeletClient := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for name, template := range map[string]*x509.Certificate{"apiserver": server, "kubelet-client": kubeletClient} {
		if err := p.issue(name, template); err != nil {
			return nil, fmt.Errorf("certificate %s: %w", name, err)
		}
	}
	if _, err := p.writeKey("service-accounts"); err != nil {
		return nil, err
	}
	return p, p.writeTokens(nodes)
}

func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

func (p *pki) makeAuthority() error {
	key, err := p.writeKey("ca")
	if err != nil {
		return err
	}
	template := newTemplate(&x509.Certificate{
		Subject: pkix.Name{CommonName: prefix + "-ca"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	})
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	if p.ca, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	p.caKey = key
	return writePEM(p.file("ca.crt"), "CERTIFICATE", der)
}

func (p *pki) issue(name string, template *x509.Certificate) error {
	key, err := p.writeKey(name)
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, newTemplate(template), p.ca, key.Public(), p.caKey)
	if err != nil {
		return err
	}
	return writePEM(p.file(name+".crt"), "CERTIFICATE", der)
}

func newTemplate(c *x509.Certificate) *x509.Certificate {
	c.SerialNumber = new(big.Int).SetBytes(randomBytes(15))
	c.NotBefore = time.Now().Add(-time.Hour)
	c.NotAfter = time.Now().Add(7 * 24 * time.Hour)
	return c
}

func (p *pki) writeKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(p.file(name+".key"), "EC PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails, says its documentation
	return b
}

// writeTokens writes the API server's token file: token, user, uid, groups.
func (p *pki) writeTokens(nodes int) error {
	var lines strings.Builder
	add := func(user, groups string) {
		p.tokens[user] = hex.EncodeToString(randomBytes(16))
		fmt.Fprintf(&lines, "%s,%s,%s,%q\n", p.tokens[user], user, user, groups)
	}
	add(userAdmin, "system:masters")
	add(userControllerManager, "")
	add(userScheduler, "")
	for i := 1; i <= nodes; i++ {
		add(userNode(nodeName(i)), "system:nodes")
	}
	return os.WriteFile(p.file("tokens.csv"), []byte(lines.String()), 0o600)
}

// writeKubeconfig writes a kubeconfig for a user of writeTokens.
func (p *pki) writeKubeconfig(path, user, server string) error {
	ca, err := os.ReadFile(p.file("ca.crt"))
	if err != nil {
		return err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters[prefix] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: p.tokens[user]}
	config.Contexts[prefix] = &clientcmdapi.Context{Cluster: prefix, AuthInfo: user}
	config.CurrentContext = prefix
	return clientcmd.WriteToFile(*config, path)
}
