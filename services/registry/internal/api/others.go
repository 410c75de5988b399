package api

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/structpb"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/templates"
)

type templateService struct {
	almanacv1.UnimplementedTemplateServiceServer
	*rooms
}

// ListTemplates implements the RPC of that name.
func (s *templateService) ListTemplates(context.Context, *almanacv1.ListTemplatesRequest) (*almanacv1.ListTemplatesResponse, error) {
	out := &almanacv1.ListTemplatesResponse{}
	for _, e := range s.Templates.List() {
		m, err := templateMessage(e)
		if err != nil {
			return nil, err
		}
		out.Templates = append(out.Templates, m)
	}
	return out, nil
}

// GetTemplate implements the RPC of that name.
func (s *templateService) GetTemplate(ctx context.Context, req *almanacv1.GetTemplateRequest) (*almanacv1.GetTemplateResponse, error) {
	e, err := s.Templates.Find(ctx, req.Type)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, fail(kindNotFound, "there is no template %s", req.Type)
	}
	m, err := templateMessage(e)
	if err != nil {
		return nil, err
	}
	return &almanacv1.GetTemplateResponse{Template: m, Schema: m.ParametersSchema}, nil
}

func templateMessage(e *templates.Entry) (*almanacv1.Template, error) {
	schema, err := structpb.NewStruct(e.Shown)
	if err != nil {
		return nil, fmt.Errorf("schema of template %s: %w", e.Type, err)
	}
	return &almanacv1.Template{
		Id: e.Type, Name: e.Name, Description: e.Description, Category: e.Category, Icon: e.Icon, ParametersSchema: schema,
		EstimatedDuration: e.EstimatedDuration, ResourceUsage: e.ResourceUsage, RiskLevel: e.RiskLevel,
		Idempotent: e.Idempotent, Destructive: e.Destructive, Version: int32(e.Version), Available: e.Available,
		MaxConcurrency: int32(e.MaxConcurrency),
	}, nil
}

type auditService struct {
	almanacv1.UnimplementedAuditServiceServer
	*rooms
}

// ListAudit implements the RPC of that name.
func (s *auditService) ListAudit(ctx context.Context, req *almanacv1.ListAuditRequest) (*almanacv1.ListAuditResponse, error) {
	_, limit, offset := paging(req.Page, req.Limit, 50)
	page, total, err := s.Store.Audits(ctx, store.AuditFilter{Object: req.Object, User: req.User, Action: req.Action, Offset: offset, Limit: limit})
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	out := &almanacv1.ListAuditResponse{Total: int32(total)}
	for _, a := range page {
		before, err := freeForm(a.Before)
		if err != nil {
			return nil, fmt.Errorf("audit entry %s: %w", a.ID, err)
		}
		after, err := freeForm(a.After)
		if err != nil {
			return nil, fmt.Errorf("audit entry %s: %w", a.ID, err)
		}
		out.Entries = append(out.Entries, &almanacv1.AuditEntry{
			Id: a.ID, At: timestamp(a.At), User: a.User, Address: a.Address, Action: a.Action, Object: a.Object, Before: before, After: after,
		})
	}
	return out, nil
}
