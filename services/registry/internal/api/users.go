package api

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// metaSession is the header in which StartSession returns the token; the gateway
// makes a cookie of it.
const metaSession = "almanac-session"

// tokenDays is how long a personal token is good when nothing is said.
const tokenDays = 90

type authService struct {
	almanacv1.UnimplementedAuthServiceServer
	*rooms
}

// LogIn implements the RPC of that name.
func (s *authService) LogIn(ctx context.Context, req *almanacv1.LogInRequest) (*almanacv1.LogInResponse, error) {
	in, err := s.Guard.LogIn(ctx, req.Username, req.Password, callerOf(ctx).address)
	if err != nil {
		return nil, err
	}
	return &almanacv1.LogInResponse{Token: in.Token, ExpiresAt: timestamp(in.ExpiresAt), Username: in.User, Role: string(in.Role)}, nil
}

// StartSession implements the RPC of that name.
func (s *authService) StartSession(ctx context.Context, req *almanacv1.StartSessionRequest) (*almanacv1.StartSessionResponse, error) {
	in, err := s.Guard.StartSession(ctx, req.Username, req.Password, callerOf(ctx).address)
	if err != nil {
		return nil, err
	}
	if err := grpc.SetHeader(ctx, metadata.Pairs(metaSession, in.Token)); err != nil {
		return nil, fmt.Errorf("return the session's token: %w", err)
	}
	return &almanacv1.StartSessionResponse{Username: in.User, Role: string(in.Role), ExpiresAt: timestamp(in.ExpiresAt)}, nil
}

// GetSession implements the RPC of that name.
func (s *authService) GetSession(ctx context.Context, _ *almanacv1.GetSessionRequest) (*almanacv1.GetSessionResponse, error) {
	who := callerOf(ctx)
	return &almanacv1.GetSessionResponse{
		Username: who.User, Role: string(who.Role), ExpiresAt: timestamp(who.Token.ExpiresAt),
		ManualRunsPerHour: int32(s.ManualRunsPerHour), MaxJobs: int32(s.MaxJobs), Version: s.Version,
	}, nil
}

// EndSession implements the RPC of that name.
func (s *authService) EndSession(ctx context.Context, _ *almanacv1.EndSessionRequest) (*almanacv1.EndSessionResponse, error) {
	who := callerOf(ctx)
	if err := s.Guard.EndSession(ctx, who.Identity, who.address); err != nil {
		return nil, err
	}
	return &almanacv1.EndSessionResponse{Message: "Logged out"}, nil
}

// ChangePassword implements the RPC of that name.
func (s *authService) ChangePassword(ctx context.Context, req *almanacv1.ChangePasswordRequest) (*almanacv1.ChangePasswordResponse, error) {
	who := callerOf(ctx)
	if err := s.Guard.ChangePassword(ctx, who.Identity, req.CurrentPassword, req.NewPassword, who.address); err != nil {
		return nil, err
	}
	return &almanacv1.ChangePasswordResponse{Message: "Password changed; your other sessions have ended"}, nil
}

// ListTokens implements the RPC of that name.
func (s *authService) ListTokens(ctx context.Context, _ *almanacv1.ListTokensRequest) (*almanacv1.ListTokensResponse, error) {
	who := callerOf(ctx)
	all, err := s.Guard.Tokens(ctx, who.User)
	if err != nil {
		return nil, err
	}
	out := &almanacv1.ListTokensResponse{}
	for _, t := range all {
		out.Tokens = append(out.Tokens, tokenMessage(t, who.Token.Hash))
	}
	return out, nil
}

func tokenMessage(t store.Token, current string) *almanacv1.Token {
	return &almanacv1.Token{
		Id: access.TokenID(t), Name: t.Name, Kind: t.Kind, CreatedAt: timestamp(t.CreatedAt), ExpiresAt: timestamp(t.ExpiresAt), Current: t.Hash == current,
	}
}

// CreateToken implements the RPC of that name.
func (s *authService) CreateToken(ctx context.Context, req *almanacv1.CreateTokenRequest) (*almanacv1.CreateTokenResponse, error) {
	who := callerOf(ctx)
	days := tokenDays
	if req.ExpiresInDays != nil {
		days = int(*req.ExpiresInDays)
	}
	var expires time.Time
	if days > 0 {
		expires = s.Now().UTC().Truncate(time.Millisecond).AddDate(0, 0, days)
	}
	t, secret, err := s.Guard.CreateToken(ctx, who.User, req.Name, expires, who.User, who.address)
	if err != nil {
		return nil, err
	}
	return &almanacv1.CreateTokenResponse{Token: tokenMessage(t, who.Token.Hash), Secret: secret}, nil
}

// RevokeToken implements the RPC of that name.
func (s *authService) RevokeToken(ctx context.Context, req *almanacv1.RevokeTokenRequest) (*almanacv1.RevokeTokenResponse, error) {
	who := callerOf(ctx)
	if err := s.Guard.RevokeToken(ctx, who.Identity, req.Id, who.address); err != nil {
		return nil, noSuch("token of yours", req.Id, err)
	}
	return &almanacv1.RevokeTokenResponse{Message: "Token revoked"}, nil
}

type userService struct {
	almanacv1.UnimplementedUserServiceServer
	*rooms
}

// ListUsers implements the RPC of that name.
func (s *userService) ListUsers(ctx context.Context, _ *almanacv1.ListUsersRequest) (*almanacv1.ListUsersResponse, error) {
	all, err := s.Guard.Users(ctx)
	if err != nil {
		return nil, err
	}
	out := &almanacv1.ListUsersResponse{}
	for _, u := range all {
		out.Users = append(out.Users, accountMessage(u))
	}
	return out, nil
}

func accountMessage(u store.User) *almanacv1.UserAccount {
	return &almanacv1.UserAccount{Username: u.Name, Role: u.Role, CreatedAt: timestamp(u.CreatedAt), HasPassword: u.PasswordHash != ""}
}

// AddUser implements the RPC of that name.
func (s *userService) AddUser(ctx context.Context, req *almanacv1.AddUserRequest) (*almanacv1.AddUserResponse, error) {
	who := callerOf(ctx)
	u, err := s.Guard.AddUser(ctx, req.Username, access.Role(req.Role), req.Password, who.User, who.address)
	if err != nil {
		return nil, err
	}
	return &almanacv1.AddUserResponse{User: accountMessage(u), Message: "User added"}, nil
}

// UpdateUser implements the RPC of that name.
func (s *userService) UpdateUser(ctx context.Context, req *almanacv1.UpdateUserRequest) (*almanacv1.UpdateUserResponse, error) {
	who := callerOf(ctx)
	update := access.Update{Password: req.Password}
	if req.Role != nil {
		role := access.Role(*req.Role)
		update.Role = &role
	}
	if update == (access.Update{}) {
		return nil, invalid(kindInvalid, violations{{"", "nothing is to be changed: give a role, a password or both"}})
	}
	u, err := s.Guard.UpdateUser(ctx, who.Identity, req.Username, update, who.address)
	if err != nil {
		return nil, noSuch("user", req.Username, err)
	}
	return &almanacv1.UpdateUserResponse{User: accountMessage(u), Message: "User updated"}, nil
}

// RemoveUser implements the RPC of that name.
func (s *userService) RemoveUser(ctx context.Context, req *almanacv1.RemoveUserRequest) (*almanacv1.RemoveUserResponse, error) {
	who := callerOf(ctx)
	if err := s.Guard.RemoveUser(ctx, who.Identity, req.Username, who.address); err != nil {
		return nil, noSuch("user", req.Username, err)
	}
	return &almanacv1.RemoveUserResponse{Message: "User removed"}, nil
}
