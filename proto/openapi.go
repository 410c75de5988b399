// Package proto holds the protocol of Almanac: the .proto files, what is
// generated from them (gen) and the OpenAPI document of its REST side.
package proto

import _ "embed"

// OpenAPI is the document, in OpenAPI 2.0 (Swagger) JSON, of every REST route.
// Nobody may change the bytes.
//
//go:embed gen/openapi/almanac.swagger.json
var OpenAPI []byte
