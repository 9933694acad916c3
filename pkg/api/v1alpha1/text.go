package v1alpha1

// IP is one IPv4 or IPv6 address in its one spelling: no leading zeros, IPv6
// small and as short as can be, no zone, no IPv4 in IPv6.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=39
// +kubebuilder:validation:XValidation:rule="isIP(self) && ip.isCanonical(self)",message="write one IP address such as 192.0.2.7 or 2001:db8::7: no leading zeros, IPv6 in small letters and as short as can be"
type IP string

// CIDR is a prefix; host bits are allowed.
//
// +kubebuilder:validation:MinLength=4
// +kubebuilder:validation:MaxLength=43
// +kubebuilder:validation:XValidation:rule="isCIDR(self)",message="write a CIDR such as 192.0.2.0/24 or 2001:db8::/64"
type CIDR string

// Duration is a time such as 30s, 10m or 1h30m, never below zero.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=32
// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+([.][0-9]+)?(ns|us|µs|ms|s|m|h))+$') || self == '0'",message="write a duration such as 30s, 10m or 1h30m; it can't be negative"
type Duration string

// RangeText is one address, a CIDR, or first-last.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=80
// +kubebuilder:validation:XValidation:rule="self.contains('-') ? isIP(self.substring(0, self.indexOf('-'))) && isIP(self.substring(self.indexOf('-') + 1)) : isIP(self) || isCIDR(self)",message="write one address (192.0.2.7), a CIDR (192.0.2.0/28) or first-last (192.0.2.10-192.0.2.20)"
type RangeText string
