/* A stub for tests: the part of Godot's GDExtension interface that examples/godot uses, by the
 * names and layouts of Godot 4. A project takes the header that its own Godot writes. */
#ifndef GDEXTENSION_INTERFACE_H
#define GDEXTENSION_INTERFACE_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    GDEXTENSION_VARIANT_TYPE_STRING = 4,
    GDEXTENSION_VARIANT_TYPE_STRING_NAME = 21,
    GDEXTENSION_VARIANT_TYPE_PACKED_FLOAT32_ARRAY = 32
} GDExtensionVariantType;
typedef enum {
    GDEXTENSION_CALL_OK,
    GDEXTENSION_CALL_ERROR_INVALID_METHOD,
    GDEXTENSION_CALL_ERROR_INVALID_ARGUMENT,
    GDEXTENSION_CALL_ERROR_TOO_MANY_ARGUMENTS,
    GDEXTENSION_CALL_ERROR_TOO_FEW_ARGUMENTS
} GDExtensionCallErrorType;
typedef enum { GDEXTENSION_METHOD_FLAGS_DEFAULT = 1 } GDExtensionClassMethodFlags;
typedef enum {
    GDEXTENSION_METHOD_ARGUMENT_METADATA_NONE
} GDExtensionClassMethodArgumentMetadata;
typedef enum {
    GDEXTENSION_INITIALIZATION_CORE,
    GDEXTENSION_INITIALIZATION_SERVERS,
    GDEXTENSION_INITIALIZATION_SCENE
} GDExtensionInitializationLevel;

typedef uint8_t GDExtensionBool;
typedef int64_t GDExtensionInt;
typedef void *GDExtensionObjectPtr, *GDExtensionTypePtr, *GDExtensionVariantPtr,
    *GDExtensionStringNamePtr, *GDExtensionStringPtr, *GDExtensionClassInstancePtr,
    *GDExtensionClassLibraryPtr;
typedef const void *GDExtensionConstTypePtr, *GDExtensionConstVariantPtr,
    *GDExtensionConstStringNamePtr;

typedef struct {
    GDExtensionCallErrorType error;
    int32_t argument, expected;
} GDExtensionCallError;
typedef struct {
    GDExtensionVariantType type;
    GDExtensionStringNamePtr name, class_name;
    uint32_t hint;
    GDExtensionStringPtr hint_string;
    uint32_t usage;
} GDExtensionPropertyInfo;

typedef void (*GDExtensionClassMethodCall)(void *, GDExtensionClassInstancePtr,
                                           const GDExtensionConstVariantPtr *, GDExtensionInt,
                                           GDExtensionVariantPtr, GDExtensionCallError *);
typedef void (*GDExtensionClassMethodPtrCall)(void *, GDExtensionClassInstancePtr,
                                              const GDExtensionConstTypePtr *,
                                              GDExtensionTypePtr);
typedef GDExtensionObjectPtr (*GDExtensionClassCreateInstance)(void *);
typedef void (*GDExtensionClassFreeInstance)(void *, GDExtensionClassInstancePtr);

typedef struct {
    GDExtensionBool is_virtual, is_abstract, is_exposed;
    void *callbacks[11];
    GDExtensionClassCreateInstance create_instance_func;
    GDExtensionClassFreeInstance free_instance_func;
    void *others[5];
    void *class_userdata;
} GDExtensionClassCreationInfo2;
typedef struct {
    GDExtensionStringNamePtr name;
    void *method_userdata;
    GDExtensionClassMethodCall call_func;
    GDExtensionClassMethodPtrCall ptrcall_func;
    uint32_t method_flags;
    GDExtensionBool has_return_value;
    GDExtensionPropertyInfo *return_value_info;
    GDExtensionClassMethodArgumentMetadata return_value_metadata;
    uint32_t argument_count;
    GDExtensionPropertyInfo *arguments_info;
    GDExtensionClassMethodArgumentMetadata *arguments_metadata;
    uint32_t default_argument_count;
    GDExtensionVariantPtr *default_arguments;
} GDExtensionClassMethodInfo;
typedef struct {
    GDExtensionInitializationLevel minimum_initialization_level;
    void *userdata;
    void (*initialize)(void *, GDExtensionInitializationLevel);
    void (*deinitialize)(void *, GDExtensionInitializationLevel);
} GDExtensionInitialization;

typedef void (*GDExtensionPtrBuiltInMethod)(GDExtensionTypePtr, const GDExtensionConstTypePtr *,
                                            GDExtensionTypePtr, int32_t);
typedef void (*GDExtensionPtrConstructor)(GDExtensionTypePtr, const GDExtensionConstTypePtr *);
typedef void (*GDExtensionPtrDestructor)(GDExtensionTypePtr);
typedef void (*GDExtensionVariantFromTypeConstructorFunc)(GDExtensionVariantPtr,
                                                          GDExtensionTypePtr);
typedef void (*GDExtensionTypeFromVariantConstructorFunc)(GDExtensionTypePtr,
                                                          GDExtensionVariantPtr);

typedef GDExtensionObjectPtr (*GDExtensionInterfaceClassdbConstructObject)(
    GDExtensionConstStringNamePtr);
typedef void (*GDExtensionInterfaceClassdbRegisterExtensionClass2)(
    GDExtensionClassLibraryPtr, GDExtensionConstStringNamePtr, GDExtensionConstStringNamePtr,
    const GDExtensionClassCreationInfo2 *);
typedef void (*GDExtensionInterfaceClassdbRegisterExtensionClassMethod)(
    GDExtensionClassLibraryPtr, GDExtensionConstStringNamePtr,
    const GDExtensionClassMethodInfo *);
typedef void (*GDExtensionInterfaceClassdbUnregisterExtensionClass)(
    GDExtensionClassLibraryPtr, GDExtensionConstStringNamePtr);
typedef void (*GDExtensionInterfaceObjectSetInstance)(GDExtensionObjectPtr,
                                                      GDExtensionConstStringNamePtr,
                                                      GDExtensionClassInstancePtr);
typedef float *(*GDExtensionInterfacePackedFloat32ArrayOperatorIndex)(GDExtensionTypePtr,
                                                                      GDExtensionInt);
typedef const float *(*GDExtensionInterfacePackedFloat32ArrayOperatorIndexConst)(
    GDExtensionConstTypePtr, GDExtensionInt);
typedef void (*GDExtensionInterfacePrintError)(const char *, const char *, const char *, int32_t,
                                               GDExtensionBool);
typedef void (*GDExtensionInterfaceStringNameNewWithLatin1Chars)(GDExtensionStringNamePtr,
                                                                 const char *, GDExtensionBool);
typedef void (*GDExtensionInterfaceStringNewWithUtf8Chars)(GDExtensionStringPtr, const char *);
typedef GDExtensionPtrBuiltInMethod (*GDExtensionInterfaceVariantGetPtrBuiltinMethod)(
    GDExtensionVariantType, GDExtensionConstStringNamePtr, GDExtensionInt);
typedef GDExtensionPtrConstructor (*GDExtensionInterfaceVariantGetPtrConstructor)(
    GDExtensionVariantType, int32_t);
typedef GDExtensionPtrDestructor (*GDExtensionInterfaceVariantGetPtrDestructor)(
    GDExtensionVariantType);
typedef GDExtensionVariantFromTypeConstructorFunc (
    *GDExtensionInterfaceGetVariantFromTypeConstructor)(GDExtensionVariantType);
typedef GDExtensionTypeFromVariantConstructorFunc (
    *GDExtensionInterfaceGetVariantToTypeConstructor)(GDExtensionVariantType);
typedef void (*GDExtensionInterfaceFunctionPtr)(void);
typedef GDExtensionInterfaceFunctionPtr (*GDExtensionInterfaceGetProcAddress)(const char *);

#endif
